"""Local folders of photos with truth, read in the layouts of COCO, CamVid and ImageNet."""
