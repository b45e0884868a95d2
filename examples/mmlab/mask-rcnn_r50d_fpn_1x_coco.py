"""Mask R-CNN with timm's ResNet-50-D, as ml-dr trains it with timm."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "checkpoints/resnet50d_imagenet_plus.pt"

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="resnet50d",
        frozen_stages=1,
        norm_eval=True,
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
