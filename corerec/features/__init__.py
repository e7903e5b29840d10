"""Features declared once: what training computes and what serving computes come from here."""

from corerec.features.context import context_features
from corerec.features.items import ItemFeatures
from corerec.features.popularity import PopularitySnapshot, PopularityTimeline
from corerec.features.schema import (
    CategoricalFeature,
    FeatureSchema,
    MultiFeature,
    NumericFeature,
    VectorSet,
)
from corerec.features.users import UserFeatures, UserIndex

__all__ = [
    "CategoricalFeature",
    "FeatureSchema",
    "ItemFeatures",
    "MultiFeature",
    "NumericFeature",
    "PopularitySnapshot",
    "PopularityTimeline",
    "UserFeatures",
    "UserIndex",
    "VectorSet",
    "context_features",
]
