"""What a comparison of training runs says: statistics, pictures, one page."""
