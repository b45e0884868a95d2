"""Mask R-CNN, MMDetection's own ResNet-50: for checkpoints of timm's or torchvision's resnet50."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# The line to change, to ImageNet's weights for example.
checkpoint = "checkpoints/resnet50_imagenet_plus.safetensors"

model = dict(backbone=dict(init_cfg=None))
custom_hooks = [dict(type="ReinforcedBackboneHook", checkpoint=checkpoint)]
