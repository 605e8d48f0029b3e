"""Open-Vocabulary SAM: click or box an object, get its mask and its name, from a frozen CLIP.

Yuan et al., "Open-Vocabulary SAM", arXiv 2401.02955v2, at full size; written from the paper, with
sizes and names from the public code (repository HarborYuan/ovsam). SAM's blocks, neck, prompt
encoder, two-way transformer and upscaling, and CLIP's text tower come from `samclip.export.models`.

For images of S x S pixels, S = 1024 in what is published; B images, N boxes or prompts, K texts,
D dimensions of the text space (768 with RN50x16), C channels of CLIP's last map (3072):

- `clip_resnet.ClipResNet`, or `convnext.ConvNext`: image Bx3xSxS -> `roi_classifier.Levels`, maps
  at strides 4, 8, 16 and 32
- `sam2clip.Sam2ClipNeck`: levels -> image_embeddings Bx256xS/16xS/16
- `sam2clip.Fpn`: levels -> levels of 256 channels each

and the graphs that are exported (`samclip.export.families.ovsam`; N, K and points are dynamic):

- `encoder`, `model.OvsamEncoder`: image Bx3xSxS -> image_embeddings Bx256xS/16xS/16;
  fpn_4, fpn_8, fpn_16, fpn_32, Bx256xS/sxS/s at stride s; c5, BxCxS/32xS/32
- `mask_decoder`, `decoder.PromptedLabelDecoder`: the inputs of SAM's, for one image
  (image_embeddings, point_coords NxPx2, point_labels NxP, mask_input Nx1xS/4xS/4,
  has_mask_input N) -> low_res_masks Nx1xS/4xS/4, logits; no predicted IoU
- `roi_classifier`, `roi_classifier.RoiClassifier`: fpn_4 to fpn_32 of one image, boxes Nx4,
  text KxD -> logits NxK
- `clip_roi`, `clip_regions.ClipRoi`: c5 of one image, boxes Nx4, text KxD -> clip_logits NxK;
  with a ConvNeXt `clip_regions.ClipMaskPool`: low_res_masks Nx1xS/4xS/4 in place of boxes

Boxes are (x0, y0, x1, y1) float32 in pixels of the S x S input frame; text rows have unit length;
logits are cosines times 100. The host does the rest: the best of a name's synonyms
(`samclip.runtime.text.vocabulary`), the background's logit, and the fusion of both opinions
(`samclip.runtime.tasks.region_naming`).

Quirks of the released code that decide results, and the module that describes each: the label token
names nothing, regions pass a ReLU, a box is read from one level of four, and 100 is exp(4.6052)
(`roi_classifier`); pixel statistics are ImageNet's (`model`); CLIP's opinion is left out where a
mask covers none of CLIP's cells (`samclip.runtime.tasks.region_naming`). One is not reproduced:
boxes taken from the annotations (`clip_regions`).
"""
