"""Small students to begin with; the list is a choice of ours, the numbers are timm's."""

from typing import NamedTuple


class EdgeStudent(NamedTuple):
    """Parameters in millions, with a classifier of 1,000 classes, and what it is built of."""

    millions: float
    words: str


DEPTHWISE, PLAIN, MIXED = "depthwise convolutions", "plain convolutions", "convolutions and attention"

# by size; for each of them timm knows weights under a licence that allows commercial use
EDGE_STUDENTS = {
    "edgenext_xx_small": EdgeStudent(1.33, MIXED),
    "mobilenetv3_small_050": EdgeStudent(1.59, DEPTHWISE),
    "tinynet_e": EdgeStudent(2.04, DEPTHWISE),
    "mobilenetv3_small_100": EdgeStudent(2.54, f"{DEPTHWISE}; the default for photos"),
    "lcnet_100": EdgeStudent(2.95, DEPTHWISE),
    "efficientvit_b0": EdgeStudent(3.41, MIXED),
    "mobilenetv2_100": EdgeStudent(3.50, DEPTHWISE),
    "convnext_atto": EdgeStudent(3.70, DEPTHWISE),
    "mobilenetv4_conv_small": EdgeStudent(3.77, DEPTHWISE),
    "tf_efficientnet_lite0": EdgeStudent(4.65, DEPTHWISE),
    "resnet10t": EdgeStudent(5.44, f"{PLAIN}; the default for drawn birds"),
    "mobilenetv3_large_100": EdgeStudent(5.48, DEPTHWISE),
    "mobilenetv4_conv_medium": EdgeStudent(9.72, DEPTHWISE),
    "resnet18": EdgeStudent(11.69, PLAIN),
}
