"""Prompt templates, and their sets by name.

CLIP classifies by putting a name into many sentences and averaging their embeddings (Radford et
al. 2021, section 3.1.4). `{}` stands for the name. Two sets are from CLIP's published notebook on
prompting for ImageNet: all 80, and the 7 that it found best together. The third set is ViLD's (Gu
et al. 2022): 14 templates for objects in scenes, spelt as Open-Vocabulary SAM and others publish
them, four without a full stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from samclip.errors import VocabularyError, did_you_mean

PLACEHOLDER = "{}"
MAX_TEMPLATES = 1_000
MAX_TEMPLATE_CHARACTERS = 10_000

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
    """Return the templates of a set, given by name, or the given template or templates.

    Each template must hold exactly one `{}`. Raises VocabularyError otherwise, for the name of an
    unknown set, and beyond MAX_TEMPLATES or MAX_TEMPLATE_CHARACTERS.
    """
    known = ", ".join(repr(name) for name in TEMPLATE_SETS)
    if isinstance(spec, str):
        if spec in TEMPLATE_SETS:
            return TEMPLATE_SETS[spec]
        if PLACEHOLDER in spec:
            return (_check_template(spec),)
        raise VocabularyError(
            f"no template set is called {spec!r:.80}{did_you_mean(spec, TEMPLATE_SETS)}. Known "
            f"sets: {known}. A template that you write yourself needs {PLACEHOLDER} where the "
            "name goes."
        )
    if not isinstance(spec, Sequence) or not spec:
        raise VocabularyError(
            f"templates must be a set's name ({known}) or a non-empty list of strings with "
            f"one {PLACEHOLDER} each; got {spec!r:.80}"
        )
    if len(spec) > MAX_TEMPLATES:
        raise VocabularyError(
            f"there are {len(spec):,} templates; at most {MAX_TEMPLATES:,} are accepted. Leave "
            "some out."
        )
    return tuple(_check_template(template) for template in spec)


def fill(template: str, name: str) -> str:
    """Put a name in the place of `{}`; braces within the name have no meaning."""
    return template.replace(PLACEHOLDER, name)


def _check_template(template: object) -> str:
    if isinstance(template, str) and len(template) > MAX_TEMPLATE_CHARACTERS:
        raise VocabularyError(
            f"the template {template[:40]!r}... has {len(template):,} characters; at most "
            f"{MAX_TEMPLATE_CHARACTERS:,} are accepted. Shorten it."
        )
    if isinstance(template, str) and template.count(PLACEHOLDER) == 1:
        return template
    raise VocabularyError(
        f"a template must be a string with exactly one {PLACEHOLDER}, as 'a photo of a "
        f"{PLACEHOLDER}.'; got {template!r:.80}"
    )
