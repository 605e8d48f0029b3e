"""COCO's annotation file, `annotations.json`, written as samples come."""

from __future__ import annotations

from pathlib import Path

from samclip.json_text import to_json
from samclip.runtime.formats.dataset import Dataset, Spool
from samclip.runtime.formats.sample import Sample
from samclip.runtime.results.coco_export import INFO, coco_annotations

FILE = "annotations.json"


class CocoFile(Dataset):
    """A file with `images`, `annotations` and `categories`, whose ids count from 1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._annotations = Spool(folder)
        self._images: list[str] = []
        self._count = 0

    def _write(self, sample: Sample) -> None:
        self._learn(sample.all_labels)
        height, width = sample.size
        image = {
            "id": len(self._images) + 1,
            "file_name": sample.file_name,
            "width": width,
            "height": height,
        }
        categories = {name: index + 1 for name, index in self.classes.items()}
        found = coco_annotations(sample, len(self._images) + 1, self._count + 1, categories)
        for row, annotation in enumerate(found):
            if sample.tracks is not None:
                annotation["track_id"] = sample.tracks[row]
            self._annotations.write((",\n" if self._count else "\n") + to_json(annotation))
            self._count += 1
        self._images.append(to_json(image))

    def _complete(self) -> None:
        categories = [{"id": index + 1, "name": name} for name, index in self.classes.items()]
        images = ",\n".join(self._images)
        self._annotations.finish(
            self.folder / FILE,
            f'{{"info": {to_json(INFO)},\n"annotations": [',
            f'\n],\n"images": [\n{images}\n],\n"categories": {to_json(categories)}}}\n',
        )
