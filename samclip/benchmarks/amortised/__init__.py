"""One encoder pass for many prompts and three tasks, against SAM and CLIP run apart."""
