# ActiveRecord: say who the user is first in the transaction.

require "active_record"

ADA = "11111111-1111-1111-1111-111111111111"
BOB = "22222222-2222-2222-2222-222222222222"
PLANS = { ADA => %w[enterprise team], BOB => %w[free] }.freeze

ActiveRecord::Base.establish_connection(url: ENV.fetch("DATABASE_URL"), pool: 8)

class Subscription < ActiveRecord::Base
  self.table_name = "billing.subscriptions"
end

def as(user)
  ActiveRecord::Base.transaction do
    ActiveRecord::Base.connection.exec_query("select set_config('app.current_user_id', $1, true)", "identity", [user])
    yield
  end
end

def request(user)
  plans = as(user) { Subscription.pluck(:plan) }.sort
  raise "#{user} saw #{plans}" unless plans == PLANS[user]
end

# Requests of both users in each thread; the connections of its pool go from thread to thread.
threads = Array.new(8) do
  Thread.new do
    10.times do |number|
      ActiveRecord::Base.connection_pool.with_connection { request(number.even? ? ADA : BOB) }
    end
  end
end
threads.each(&:join)
puts "ok #{threads.size * 10} requests of two users each saw their own rows"
