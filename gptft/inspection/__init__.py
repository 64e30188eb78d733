"""What a model would see, before hours of training: `gptft inspect`, and the first checks of `gptft finetune`."""
