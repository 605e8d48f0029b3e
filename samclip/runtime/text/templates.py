"""Prompt templates, and how a caller names them.

CLIP classifies with a name put into many sentences, whose embeddings are averaged (Radford et al.
2021, section 3.1.4). Two sets are those of CLIP's published notebook on prompting for ImageNet:
all 80, and the 7 that it found best together. The third is that of ViLD (Gu et al. 2022), 14
templates for objects in scenes, in the form in which Open-Vocabulary SAM and others publish them,
four without a full stop. `{}` stands for the name.
"""

from __future__ import annotations

from collections.abc import Sequence

from samclip.errors import VocabularyError, did_you_mean

PLACEHOLDER = "{}"

OPENAI_IMAGENET_TEMPLATES = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

SIMPLE_IMAGENET_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

VILD_TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "openai": OPENAI_IMAGENET_TEMPLATES,
    "simple": SIMPLE_IMAGENET_TEMPLATES,
    "vild": VILD_TEMPLATES,
    "none": (PLACEHOLDER,),
}


def resolve_templates(spec: str | Sequence[str]) -> tuple[str, ...]:
    """Turn the name of a set, one template, or a sequence of templates into templates.

    Each template holds exactly one `{}`. Raises VocabularyError otherwise, and for a name that is
    no set's.
    """
    if isinstance(spec, str):
        return TEMPLATE_SETS[spec] if spec in TEMPLATE_SETS else _one_template(spec)
    if not isinstance(spec, Sequence) or not spec:
        raise VocabularyError(
            f"templates must be a set's name ({_known()}) or a non-empty list of strings with "
            f"one {PLACEHOLDER} each; got {spec!r:.80}"
        )
    return tuple(_checked(template) for template in spec)


def fill(template: str, name: str) -> str:
    """Put a name in the place of `{}`; braces within the name mean nothing."""
    return template.replace(PLACEHOLDER, name)


def _one_template(spec: str) -> tuple[str, ...]:
    if PLACEHOLDER in spec:
        return (_checked(spec),)
    raise VocabularyError(
        f"no template set is called {spec!r:.80}{did_you_mean(spec, TEMPLATE_SETS)}. Known sets: "
        f"{_known()}. A template of your own needs {PLACEHOLDER} where the name goes."
    )


def _checked(template: object) -> str:
    if isinstance(template, str) and template.count(PLACEHOLDER) == 1:
        return template
    raise VocabularyError(
        f"a template must be a string with exactly one {PLACEHOLDER}, as 'a photo of a "
        f"{PLACEHOLDER}.'; got {template!r:.80}"
    )


def _known() -> str:
    return ", ".join(repr(name) for name in TEMPLATE_SETS)
