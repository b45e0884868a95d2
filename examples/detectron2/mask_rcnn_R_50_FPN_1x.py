"""Mask R-CNN with ml-dr's published ResNet-50, for tools/lazyconfig_train_net.py."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from d2_ext import TimmBackbone

_base = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
dataloader, lr_multiplier, optimizer = _base.dataloader, _base.lr_multiplier, _base.optimizer
model, train = _base.model, _base.train

model.backbone.bottom_up = L(TimmBackbone)(
    model="cvnets_resnet50",
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=2,
    norm="FrozenBN",
)
train.init_checkpoint = (
    "imagenet-plus://checkpoints/cvnets_resnet50_imagenet_plus.pt?source=cvnets&arch=resnet50"
)

# CVNets trains on RGB images from 0 to 1.
model.pixel_mean = [0.0, 0.0, 0.0]
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = dataloader.train.mapper.image_format = "RGB"
