"""Experiment trackers that a run's figures are sent to: TensorBoard, Weights & Biases, MLflow."""
