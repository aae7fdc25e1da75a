# The pyramid of SHViT's detectors: finer levels than the backbone's by transposed convolutions. A
# leaf adds how many, and the channels.
neck = dict(type='vitbackbones.TransposedConvFPN', out_channels=256, num_outs=5)
