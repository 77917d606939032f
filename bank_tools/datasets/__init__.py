"""Published datasets in their own layouts, read into samples, categories and a dataset."""

from bank_tools.datasets.reader import LAYOUTS, read_dataset
from bank_tools.datasets.records import GOOD, Category, Dataset, Sample

__all__ = ["GOOD", "LAYOUTS", "Category", "Dataset", "Sample", "read_dataset"]
