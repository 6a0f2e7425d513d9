"""What a run is, as typed values that every face shows."""
