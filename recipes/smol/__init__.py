"""The recipe of the pretrained model `smol`; see README.md. Not part of the installed package."""
