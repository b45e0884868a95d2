"""Mask R-CNN with ml-dr's published MobileViT-S."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "checkpoints/cvnets_mobilevit_s_imagenet_plus.pt"

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="cvnets_mobilevit_s",
        norm_eval=True,
    ),
    neck=dict(in_channels=[64, 96, 128, 640]),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
