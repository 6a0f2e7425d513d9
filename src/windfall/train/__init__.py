"""Model, optimizers, data, evaluation and text generation. Importing this package imports no torch."""
