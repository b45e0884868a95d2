"""Mask R-CNN with ml-dr's published ResNet-50: 100 epochs with large-scale jitter.

Images of 1024 pixels, batches of 64, a learning rate of 0.1, a weight decay of 4e-5 and 500
iterations of warm-up, which is Detectron2's recipe for training from random weights.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from d2_ext import TimmBackbone

_base = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
dataloader, lr_multiplier, optimizer = _base.dataloader, _base.lr_multiplier, _base.optimizer
model, train = _base.model, _base.train

model.backbone.bottom_up = L(TimmBackbone)(
    model="cvnets_resnet50",
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=0,
    norm="SyncBN",
)
train.init_checkpoint = "imagenet-plus://resnet50_imagenet_plus.pt?source=cvnets&arch=resnet50"

# CVNets trains on RGB images from 0 to 1.
model.pixel_mean = [0.0, 0.0, 0.0]
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = dataloader.train.mapper.image_format = "RGB"
