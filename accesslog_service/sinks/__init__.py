"""Where records go. A sink takes records without waiting: it is called from the loop that receives them."""
