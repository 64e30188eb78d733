"""To the Hugging Face Hub and from it: push a run with its model card, pull a model, use the recipe in a card."""
