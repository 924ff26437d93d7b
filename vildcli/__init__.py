"""Open-vocabulary labelling around ViLD (Gu et al., ICLR 2022)."""

__version__ = "0.1.0"
