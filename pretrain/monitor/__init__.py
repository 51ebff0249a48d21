"""What a run tells about itself: metrics on disk, progress on the terminal, arithmetic done."""
