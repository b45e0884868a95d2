"""DeepLabV3 with MMSegmentation's own ResNet-50: for checkpoints of timm's or torchvision's."""

_base_ = "deeplabv3_cvnets-r50-d8_50e_ade20k-512x512.py"

# Change this line to use other weights. These are what resnet50_imagenet-plus.py trains.
checkpoint = "runs/resnet50/epoch_300.pth"

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=dict(type="BN", requires_grad=True),
        style="pytorch",
    ),
)
default_hooks = dict(backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint))
