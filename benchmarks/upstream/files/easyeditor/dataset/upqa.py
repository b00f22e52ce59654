"""UPQA: users' preferences with paraphrased, implicit and product questions (arXiv 2512.13676)."""

from torch.utils.data import Dataset

from ..util.personal_package import personal_package


class UPQADataset(Dataset):
    """Items as request dictionaries.

    :param data_dir: a UPQA file, flat or clustered, or "bundled" for the set that ships with easyedit-personal
    :param size: keep only the first items
    """

    def __init__(self, data_dir, size=None, config=None, *args, **kwargs):
        self.data = personal_package().UPQADataset(data_dir, size)
        print(f"Loaded dataset with {len(self)} elements")

    def __len__(self):
        return len(self.data)

    def __getitem__(self, item):
        return self.data[item]

    def edit_kwargs(self, cluster_size=1):
        """Keyword arguments for BaseEditor.edit: one entry per item."""
        return self.data.edit_kwargs(cluster_size)

    def collate_fn(self, batch):
        """A batch as one dictionary of lists."""
        return self.data.collate_fn(batch)
