-- ARGV: 3 on one account.
return add_views({'yes', now_text}, load_accounts(ARGV, 3, 1))
