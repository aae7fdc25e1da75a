"""A small variant of every backbone, for tests of behaviour rather than of published numbers."""

SMALL = {
    'CASViT': {
        'dims': (8, 12, 16, 24),
        'depths': (1, 2, 2, 1),
    },
    'GCViT': {
        'dim': 8,
        'depths': (2, 3, 2, 2),
        'num_heads': (1, 2, 4, 8),
        'layer_scale': 1.0,
    },
    'SHViT': {
        'dims': (16, 24, 32),
        'partial_dims': (4, 6, 8),
        'depths': (1, 2, 1),
    },
    'SepViT': {
        'dims': (8, 16, 24, 32),
        'depths': (1, 2, 2, 1),
        'num_heads': (1, 2, 3, 4),
        'window_sizes': ((3,), (3, 4), (3, 4), (3,)),
    },
    'SuperViT': {
        'dim': 16,
        'depth': 5,
        'num_heads': 2,
        'mlp_ratio': 2,
        'qkv_bias': False,
        'norm_eps': 1e-5,
        'stem_dim': 32,  # narrower 8x8 convolutions in bfloat16 are wrong on some CPUs (oneDNN)
        'residual_scale': 0.5,
    },
}
