"""The raw files of datasets as they were published, by their SHA-256."""

from __future__ import annotations

# Of the uncompressed IDX files. Those of KMNIST are not known here.
PUBLISHED = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


def describe_difference(name: str, files: dict[str, str]) -> str:
    """How files differ from the published ones of a dataset, as the end of a sentence; empty if they may be the same.

    Args:
        name: the dataset's.
        files: the SHA-256 of each file, by its published name.
    """
    for other, published in PUBLISHED.items():
        if files == published:
            return "" if other == name else f"the published ones of {other}, not of {name}"
    return f"not the published ones of {name}" if name in PUBLISHED else ""
