"""Which images to review next: ISAL's influence, and the strategies that it is held against."""
