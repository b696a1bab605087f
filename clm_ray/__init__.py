"""clm_ray: train and serve recommenders that manage the customer life cycle, on Ray."""

__version__ = "0.1.0"
