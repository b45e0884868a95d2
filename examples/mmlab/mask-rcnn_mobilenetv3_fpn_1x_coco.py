"""Mask R-CNN with ml-dr's published MobileNetV3-Large."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "checkpoints/cvnets_mobilenetv3_large_imagenet_plus.pt"

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="cvnets_mobilenetv3_large_100",
        norm_eval=True,
    ),
    neck=dict(in_channels=[24, 40, 112, 960]),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
