"""DeepLabV3 with ml-dr's published ResNet-50 on ADE20K, 50 epochs, as in Faghri et al., 2023."""

# By a path: MMEngine's fork does not find "mmseg::..." under the name of MMSegmentation's fork.
_base_ = (
    f"{__import__('mmseg').__path__[0]}/.mim/configs/deeplabv3/"
    "deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py"
)
custom_imports = dict(imports=["mmlab_ext"])

# The line to change, to ImageNet's weights for example.
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
    decode_head=dict(dilations=(1, 12, 24, 36)),
    auxiliary_head=dict(loss_decode=dict(loss_weight=0.4)),
)
custom_hooks = [dict(type="ReinforcedBackboneHook", checkpoint=checkpoint)]

# 16 images in a batch on 4 GPUs, with statistics over all of them. The image pooling of ASPP cannot
# normalise a batch of one image, such as the last one of an epoch.
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    drop_last=True,
    sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True),
)
sync_bn = "torch"

max_epochs = 50
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=5)
optimizer = dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4)
optim_wrapper = dict(_delete_=True, type="OptimWrapper", optimizer=optimizer)
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-4,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=5, save_best="mIoU"),
)
log_processor = dict(by_epoch=True)
