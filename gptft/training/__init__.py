"""From a recipe to a trained model: batches, the Trainer, progress, and the whole of it in `finetune`."""
