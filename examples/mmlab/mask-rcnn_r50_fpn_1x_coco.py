"""Mask R-CNN, MMDetection's own ResNet-50: for checkpoints of timm's or torchvision's resnet50."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights. These are what resnet50_imagenet-plus.py trains.
# ml-dr's ResNet-50 is another network, see mask-rcnn_cvnets-r50_fpn_1x_coco.py.
checkpoint = "runs/resnet50/epoch_300.pth"

model = dict(backbone=dict(init_cfg=None))
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
