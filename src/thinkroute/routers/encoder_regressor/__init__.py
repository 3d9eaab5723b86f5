"""A fine-tuned Hugging Face encoder that predicts every arm, served by ONNX Runtime."""
