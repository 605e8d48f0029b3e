"""One model at several image sizes, its weights shared.

A merged model is built for one image size: positions, windows and grids are laid out for it. To
train at variable resolution (SAM-CLIP, stage III: 224, 448 and 1024 px) the model is built once
for each further size, around the very parameters of the first. Those that depend on the size,
absolute and relative positions, are resampled from the first model's in every pass, as export does
it (`export.models.pos_embed`), and gradients flow back through the resampling. The paper does not
say how it fits positions; segment-anything resamples relative ones in every pass as well.
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
    """A tensor of a sized model, `owner.name`, that is made from a parameter of the first."""

    owner: nn.Module
    name: str
    source: nn.Parameter
    resample: Callable[[Tensor], Tensor]

    def refresh(self) -> None:
        setattr(self.owner, self.name, self.resample(self.source))


class SizedModels:
    """The models of one set of weights, by image size in pixels; built when first asked for."""

    def __init__(self, model: MergedModel) -> None:
        self._first = model
        self._models = {model.config.image_size: model}
        self._resampled: dict[int, tuple[_Resampled, ...]] = {model.config.image_size: ()}

    def at(self, size: int) -> MergedModel:
        """Return the model for squares of `size` pixels, its positions as they are now.

        Call it for every pass: a pass whose gradient is still wanted must end before the next
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
    """Put the parameters and persistent buffers of `first` in the place of those of `sized`.

    Returns what is to be refreshed before each pass: positions of another shape. Raises
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
            fit = _fitting(f"{path}.{name}", tuple(target.shape))
            resampled.append(_Resampled(theirs, name, parameter, fit))
        for name, buffer in list(ours._buffers.items()):
            if name not in ours._non_persistent_buffers_set:
                theirs._buffers[name] = buffer
    return tuple(resampled)


def _fitting(name: str, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Choose how a parameter comes to `shape`."""
    if name.endswith(".pos_embed") and len(shape) == 4:
        return lambda tensor: resize_absolute(tensor, (shape[1], shape[2]))
    if name.endswith((".rel_pos_h", ".rel_pos_w")):
        return lambda tensor: resize_relative(tensor, shape[0])
    raise TrainingError(
        f"{name} has another shape at another image size, {shape}, and nothing says how it is "
        "resampled; train this model at its own size only"
    )
