local embed = nn.embedding { vocab = 32, d = c.d }
return moec.model {
  name = "readme", task = "lm", config = c, steps = 5, optimizer = moec.optim.adam { lr = 1e-3 },
  forward = function(b)
    local x = embed(b.tokens)
    return nn.tied_logits(x + nn.moe(x, { experts = 4, hidden = 32 }), embed)
  end,
  phases = { { name = "cosine", gate = cosine } },
}
