"""What each stage of a request must do, what this machine can do, and what the stage takes."""
