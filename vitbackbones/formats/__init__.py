"""Folders of images and annotations as people have them, made ready for mmdet and mmseg."""
