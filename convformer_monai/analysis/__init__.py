"""What the transformer layers of a network do: attention collapse, receptive fields, attention of a pixel."""

from convformer_monai.analysis.attention import PixelAttention, attention_of_pixel
from convformer_monai.analysis.collapse import LayerCollapse, measure_collapse
from convformer_monai.analysis.layers import Visit, Windows, attention_rows, block_classes, visit
from convformer_monai.analysis.receptive_field import HeadField, measure_receptive_fields

__all__ = [
    "HeadField",
    "LayerCollapse",
    "PixelAttention",
    "Visit",
    "Windows",
    "attention_of_pixel",
    "attention_rows",
    "block_classes",
    "measure_collapse",
    "measure_receptive_fields",
    "visit",
]
