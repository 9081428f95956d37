"""How fast is this queue beside the bare driver, the stock libraries, and other queues, in one run on one machine?"""
