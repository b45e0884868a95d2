"""Mask R-CNN with ml-dr's published EfficientNet-B3."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "checkpoints/cvnets_efficientnet_b3_imagenet_plus.pt"

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="cvnets_efficientnet_b3",
        norm_eval=True,
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[32, 48, 136, 384]),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
