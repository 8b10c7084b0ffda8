"""Networks that turn images into feature maps."""
