"""The data sets that have a short name, and where the Hugging Face hub keeps them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubSource:
    """A data set of the hub: its id, which of its configurations, and the columns that are meant."""

    hub_id: str
    config: str
    image_column: str = "image"
    label_column: str = "label"


CATALOGUE = {
    "cifar10": HubSource("uoft-cs/cifar10", "plain_text", image_column="img"),
    "cifar100": HubSource("uoft-cs/cifar100", "cifar100", image_column="img", label_column="fine_label"),
    "fashion_mnist": HubSource("zalando-datasets/fashion_mnist", "fashion_mnist"),
    "mnist": HubSource("ylecun/mnist", "mnist"),
    "svhn": HubSource("ufldl-stanford/svhn", "cropped_digits"),  # its third part, "extra", is not used
}
