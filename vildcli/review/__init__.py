"""What a person looks at: the FiftyOne App and contact sheets."""
