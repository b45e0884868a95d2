"""DeepLabV3 with ml-dr's published ResNet-50 on ADE20K for 50 epochs, with averaged weights.

ml-dr published no configuration of its segmentors. The numbers are those of the nearest one of the
same authors, deeplabv3_resnet_50.yaml in projects/range_augment/segmentation/ade20k of
apple/corenet; a comment says where something differs.
"""

# By a path: MMEngine's fork does not find "mmseg::..." under the name of MMSegmentation's fork.
_base_ = (
    f"{__import__('mmseg').__path__[0]}/.mim/configs/deeplabv3/"
    "deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py"
)
custom_imports = dict(imports=["mmlab_ext"])

# Change this line to use other weights, such as ImageNet's.
checkpoint = "checkpoints/cvnets_resnet50_imagenet_plus.pt"

model = dict(
    data_preprocessor=dict(mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0], bgr_to_rgb=True),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="TimmFeatures",
        model="cvnets_resnet50",
        output_stride=8,
    ),
    decode_head=dict(channels=512, dilations=(1, 12, 24, 36), dropout_ratio=0.1),
    auxiliary_head=dict(loss_decode=dict(loss_weight=0.4)),
)

# The shorter side from 256 to 768 pixels, the longer one up to 1024. Instead of the augmentation
# that is learned there (RangeAugment), MMSegmentation's photometric one.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(
        type="RandomResize",
        scale=[(1024, 256), (1024, 768)],
        keep_ratio=True,
        interpolation="bicubic",
    ),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
# 16 images in a batch, there on one GPU, here on 4, with statistics over all of them. The image
# pooling of ASPP cannot normalise a batch of one image, such as the last one of an epoch.
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    drop_last=True,
    sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
sync_bn = "torch"

max_epochs = 50
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", eta_min=1e-4, begin=0, end=max_epochs, by_epoch=True)
]
default_hooks = dict(
    backbone=dict(type="ReinforcedBackboneHook", checkpoint=checkpoint),
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=5, save_best="mIoU"),
    ema=dict(type="EMAHook", momentum=1e-4, update_buffers=True),
)
log_processor = dict(by_epoch=True)
