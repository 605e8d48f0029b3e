"""The plans of a bundle: build, judge and check them, and find what is wrong in one."""
