"""What the commands of ``convformer-monai`` check and do before others do the work: one module a command.

They refuse what options and folders can tell, and only then import torch.
"""
