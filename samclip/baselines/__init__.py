"""What a merged model is measured against: SAM's masks, named by a second model.

The two baselines of Open-Vocabulary SAM (Yuan et al. 2024): the image cropped to each mask and
every crop encoded (`CropImage`), and one more pass over the whole image whose features are pooled
inside the masks (`CropFeature`). Both encode an image into a scene that answers as samclip's own.
"""
