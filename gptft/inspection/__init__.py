"""What a model would see, before hours of training: `gptft inspect`, and the checks that `gptft finetune` begins with."""
