"""One merged model at several image sizes, with shared weights.

A merged model is built for one image size: positions, windows and grids are laid out for it. To
train at variable resolution (SAM-CLIP, stage III: 224, 448 and 1024 px) the model is built once
for each further size, around the same parameters. Those that depend on the size, absolute and
relative positions, are resampled from the first model's in every pass, as in export
(`export.models.pos_embed`), and gradients flow back through the resampling. The paper does not say
how it fits positions; segment-anything also resamples relative ones in every pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from samclip.errors import TrainingError
from samclip.export.models.merged import MergedModel
from samclip.export.models.pos_embed import resize_absolute, resize_relative


@dataclass(frozen=True)
class _Resampled:
    """A tensor of a sized model, `owner.name`, resampled from a parameter of the first model."""

    owner: nn.Module
    name: str
    source: nn.Parameter
    resample: Callable[[Tensor], Tensor]

    def refresh(self) -> None:
        setattr(self.owner, self.name, self.resample(self.source))


class SizedModels:
    """The models of one set of weights, by image size in pixels; built when first needed."""

    def __init__(self, model: MergedModel) -> None:
        self._first = model
        self._models = {model.config.image_size: model}
        self._resampled: dict[int, tuple[_Resampled, ...]] = {model.config.image_size: ()}

    def at(self, size: int) -> MergedModel:
        """Return the model for squares of `size` pixels, its positions resampled from the weights.

        Call it for every pass: a pass whose gradient is still needed must end before the next
        call for the same size. Raises the errors of `MergedModel` for impossible sizes.
        """
        if size not in self._models:
            config = replace(self._first.config, image_size=size)
            sized = MergedModel(config).to(next(self._first.parameters()).device)
            self._resampled[size] = share(self._first, sized)
            self._models[size] = sized.eval()
        for tensor in self._resampled[size]:
            tensor.refresh()
        return self._models[size]


def share(first: MergedModel, sized: MergedModel) -> tuple[_Resampled, ...]:
    """Replace the parameters and persistent buffers of `sized` by those of `first`.

    Returns the tensors to refresh before each pass: positions of another shape. Raises
    TrainingError when any other tensor depends on the image size.
    """
    resampled: list[_Resampled] = []
    for (path, theirs), ours in zip(sized.named_modules(), first.modules(), strict=True):
        for name, parameter in list(ours._parameters.items()):
            target = theirs._parameters[name]
            if parameter is None or target is None:
                continue
            if parameter.shape == target.shape:
                theirs._parameters[name] = parameter
                continue
            del theirs._parameters[name]
            fit = _resampling(f"{path}.{name}", tuple(target.shape))
            resampled.append(_Resampled(theirs, name, parameter, fit))
        for name, buffer in list(ours._buffers.items()):
            if name not in ours._non_persistent_buffers_set:
                theirs._buffers[name] = buffer
    return tuple(resampled)


def _resampling(name: str, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Return the function that resamples a parameter to `shape`."""
    if name.endswith(".pos_embed") and len(shape) == 4:
        return lambda tensor: resize_absolute(tensor, (shape[1], shape[2]))
    if name.endswith((".rel_pos_h", ".rel_pos_w")):
        return lambda tensor: resize_relative(tensor, shape[0])
    raise TrainingError(
        f"{name} has another shape at another image size, {shape}, and no rule resamples it; "
        "train this model only at its own size"
    )
